from setuptools import setup  # everything is in pyproject.toml

setup()
