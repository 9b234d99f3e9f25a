"""Foreign weight files into the HDF5 that minidnn reads."""
