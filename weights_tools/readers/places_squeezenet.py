"""SqueezeNet 1.1 for the scenes of Places365, trained in Lasagne with batch norm: known by its shapes.

Its file says nothing of wiring, colours or classes. They are settled by what the file remembers: the mean and
deviation of every channel before each batch norm must come out again on photos. 73 colour photos and 280 grey
ones of 14 scenes gave (loglik: mean log of the probability of a right name among the 365; top 5: how often it
is among five):

    as below                               loglik -2.64, top 5 67 %; deviations within 7 %
    filters not turned (a correlation)     -5.07, 18 %
    slope 0.229, as PyTorch's rrelu has    -5.23,  7 %; deviations drift by a factor of 4 with depth
    mean in the order R, G, B              -2.91, 63 %; in colour, flowers become an aquarium
    ReLU behind conv10                     -2.69, 64 %

The first filters answer to pixels / 236 of these photos, so to / 255; solved for the mean of their input,
they give 0.00 for each channel: the means of Places were subtracted. At 224 pixels it does not matter whether
pools round up or down. https://lasagne.readthedocs.io: rrelu draws its slopes from 0.3 to 0.8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidnn.graph import Node
from minidnn.images import Preprocess
from minidnn.layers import BatchNorm, Concat, Conv, GlobalAvgPool, Layer, LeakyReLU, MaxPool, Softmax
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.squeezenet import FIRES
from weights_tools.foreign import Arrays

EPS = 1e-4  # Lasagne's
RRELU = LeakyReLU((0.3 + 0.8) / 2)  # a random slope in training, its mean afterwards
POOL = MaxPool(Window.of(3, stride=2))
POOLS = {"fire3": "pool3", "fire5": "pool5"}
PLACES = Preprocess(
    order="BGR",
    scale=1 / 255,
    mean=(104.051 / 255, 112.514 / 255, 116.676 / 255),
    size=(224, 224),
    resize=224,
)


def banks() -> list[tuple[str, tuple[int, ...]]]:
    """The name and the filters (kh, kw, C, K) of each convolution, in the file's order."""
    found, c = [("conv1", (3, 3, 3, 64))], 64
    for fire, (squeezed, expanded) in FIRES.items():
        found.append((f"{fire}/squeeze1x1", (1, 1, c, squeezed)))
        found += [(f"{fire}/expand{size}x{size}", (size, size, squeezed, expanded)) for size in (1, 3)]
        c = 2 * expanded
    return [*found, ("conv10", (1, 1, c, len(CLASSES)))]


def is_it(layers: Sequence[Arrays]) -> bool:
    """Whether these are its arrays: each convolution but the last with a bias and a batch norm behind."""
    wanted: list[tuple[int, ...] | None] = []
    for _, shape in banks():
        wanted += [shape, None]
    shapes = [own["w"].shape if "w" in own else None for own in layers]
    biased = all("b" in own for own in layers if "w" in own)
    return biased and shapes == wanted[:-1]


def net_of(layers: Sequence[Arrays]) -> Net:
    """The net with these arrays."""
    held = iter(layers)
    nodes: list[Node] = []

    def behind(before: str, layer_name: str, bare: str, layer: Layer) -> str:
        """A convolution, its norm and its rectifier."""
        norm, relu = (layer_name.replace(bare, f"{kind}_{bare}") for kind in ("bn", "relu"))
        nodes.append(Node(layer_name, layer, (before,)))
        nodes.append(Node(norm, BatchNorm(**next(held), eps=EPS), (layer_name,)))
        nodes.append(Node(relu, RRELU, (norm,)))
        return relu

    def conv(stride: int = 1, pad: int = 0) -> Conv:
        own = next(held)
        return Conv(
            np.ascontiguousarray(own["w"]), own["b"], Window.of(own["w"].shape[:2], stride=stride, pad=pad)
        )

    before = behind("data", "conv1", "conv1", conv(stride=2))
    nodes.append(Node("pool1", POOL, (before,)))
    before = "pool1"
    for fire in FIRES:
        narrow = behind(before, f"{fire}/squeeze1x1", "squeeze1x1", conv())
        ways = [
            behind(narrow, f"{fire}/expand{size}x{size}", f"expand{size}x{size}", conv(pad=size // 2))
            for size in (1, 3)
        ]
        before = f"{fire}/concat"
        nodes.append(Node(before, Concat(), tuple(ways)))
        if fire in POOLS:
            nodes.append(Node(POOLS[fire], POOL, (before,)))
            before = POOLS[fire]
    nodes.append(Node("conv10", conv(), (before,)))
    nodes.append(Node("pool10", GlobalAvgPool(), ("conv10",)))
    nodes.append(Node("prob", Softmax(), ("pool10",)))
    return Net(nodes, input_shape=(224, 224, 3), preprocess=PLACES, classes=CLASSES)


# In the order of the published list, which is that of the alphabet.
NAMES = """
airfield airplane_cabin airport_terminal alcove alley amphitheater amusement_arcade amusement_park
apartment_building/outdoor aquarium aqueduct arcade arch archaelogical_excavation archive arena/hockey
arena/performance arena/rodeo army_base art_gallery art_school art_studio artists_loft assembly_line
athletic_field/outdoor atrium/public attic auditorium auto_factory auto_showroom badlands bakery/shop
balcony/exterior balcony/interior ball_pit ballroom bamboo_forest bank_vault banquet_hall bar barn
barndoor baseball_field basement basketball_court/indoor bathroom bazaar/indoor bazaar/outdoor beach
beach_house beauty_salon bedchamber bedroom beer_garden beer_hall berth biology_laboratory boardwalk
boat_deck boathouse bookstore booth/indoor botanical_garden bow_window/indoor bowling_alley boxing_ring
bridge building_facade bullring burial_chamber bus_interior bus_station/indoor butchers_shop butte
cabin/outdoor cafeteria campsite campus canal/natural canal/urban candy_store canyon car_interior
carrousel castle catacomb cemetery chalet chemistry_lab childs_room church/indoor church/outdoor classroom
clean_room cliff closet clothing_store coast cockpit coffee_shop computer_room conference_center
conference_room construction_site corn_field corral corridor cottage courthouse courtyard creek crevasse
crosswalk dam delicatessen department_store desert/sand desert/vegetation desert_road diner/outdoor
dining_hall dining_room discotheque doorway/outdoor dorm_room downtown dressing_room driveway drugstore
elevator/door elevator_lobby elevator_shaft embassy engine_room entrance_hall escalator/indoor excavation
fabric_store farm fastfood_restaurant field/cultivated field/wild field_road fire_escape fire_station
fishpond flea_market/indoor florist_shop/indoor food_court football_field forest/broadleaf forest_path
forest_road formal_garden fountain galley garage/indoor garage/outdoor gas_station gazebo/exterior
general_store/indoor general_store/outdoor gift_shop glacier golf_course greenhouse/indoor
greenhouse/outdoor grotto gymnasium/indoor hangar/indoor hangar/outdoor harbor hardware_store hayfield
heliport highway home_office home_theater hospital hospital_room hot_spring hotel/outdoor hotel_room house
hunting_lodge/outdoor ice_cream_parlor ice_floe ice_shelf ice_skating_rink/indoor ice_skating_rink/outdoor
iceberg igloo industrial_area inn/outdoor islet jacuzzi/indoor jail_cell japanese_garden jewelry_shop
junkyard kasbah kennel/outdoor kindergarden_classroom kitchen lagoon lake/natural landfill landing_deck
laundromat lawn lecture_room legislative_chamber library/indoor library/outdoor lighthouse living_room
loading_dock lobby lock_chamber locker_room mansion manufactured_home market/indoor market/outdoor marsh
martial_arts_gym mausoleum medina mezzanine moat/water mosque/outdoor motel mountain mountain_path
mountain_snowy movie_theater/indoor museum/indoor museum/outdoor music_studio natural_history_museum
nursery nursing_home oast_house ocean office office_building office_cubicles oilrig operating_room orchard
orchestra_pit pagoda palace pantry park parking_garage/indoor parking_garage/outdoor parking_lot pasture
patio pavilion pet_shop pharmacy phone_booth physics_laboratory picnic_area pier pizzeria playground
playroom plaza pond porch promenade pub/indoor racecourse raceway raft railroad_track rainforest reception
recreation_room repair_shop residential_neighborhood restaurant restaurant_kitchen restaurant_patio
rice_paddy river rock_arch roof_garden rope_bridge ruin runway sandbox sauna schoolhouse science_museum
server_room shed shoe_shop shopfront shopping_mall/indoor shower ski_resort ski_slope sky skyscraper slum
snowfield soccer_field stable stadium/baseball stadium/football stadium/soccer stage/indoor stage/outdoor
staircase storage_room street subway_station/platform supermarket sushi_bar swamp swimming_hole
swimming_pool/indoor swimming_pool/outdoor synagogue/outdoor television_room television_studio temple/asia
throne_room ticket_booth topiary_garden tower toyshop train_interior train_station/platform tree_farm
tree_house trench tundra underwater/ocean_deep utility_room valley vegetable_garden veterinarians_office
viaduct village vineyard volcano volleyball_court/outdoor waiting_room water_park water_tower waterfall
watering_hole wave wet_bar wheat_field wind_farm windmill yard youth_hostel zen_garden
"""
CLASSES = tuple(NAMES.split())
