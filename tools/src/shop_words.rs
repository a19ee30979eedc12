//! English word lists of the sample shop: who buys, where they live, what they buy and who brings it.
//!
//! Some names carry letters outside ASCII on purpose: a shop's real rows do.

pub(crate) const FIRST_NAMES: [&str; 56] = [
    "Ada", "Aiko", "Amara", "Anja", "Bela", "Björn", "Carmen", "Chloé", "Dara", "Diego", "Elif", "Emil", "Esther",
    "Farid", "Fiona", "Gala", "Gustav", "Hana", "Henrik", "Ines", "Ivan", "Jada", "Jonas", "Jürgen", "Kofi", "Lars",
    "Leila", "Lin", "Łucja", "Maja", "Malik", "Mateo", "Mina", "Nadia", "Nils", "Noor", "Olga", "Omar", "Paula",
    "Pedro", "Priya", "Quinn", "Rania", "Ravi", "Rosa", "Sami", "Selma", "Tariq", "Tove", "Uma", "Viktor", "Wen",
    "Xenia", "Yara", "Zoë", "Zoran",
];

pub(crate) const LAST_NAMES: [&str; 56] = [
    "Abebe", "Almeida", "Andersson", "Bauer", "Becker", "Castillo", "Chen", "Cohen", "Costa", "Dubois", "Eriksen",
    "Farouk", "Fischer", "García", "Haddad", "Hansen", "Ibrahim", "Ivanova", "Jansen", "Kaya", "Keller", "Kim",
    "Kowalski", "Larsen", "Lehmann", "Lindqvist", "Lopez", "Maier", "Mbeki", "Moreau", "Moreno", "Nakamura", "Nguyen",
    "Novak", "O'Brien", "Okafor", "Olsen", "Park", "Pereira", "Petrov", "Quist", "Rossi", "Said", "Santos", "Schmidt",
    "Silva", "Singh", "Sørensen", "Tanaka", "Torres", "Usman", "Varga", "Weber", "Yilmaz", "Zhang", "Żak",
];

pub(crate) const CITIES: [&str; 32] = [
    "Aarhus", "Antwerp", "Athens", "Barcelona", "Bergen", "Berlin", "Bilbao", "Bologna", "Brno", "Cologne", "Dublin",
    "Ghent", "Graz", "Hamburg", "Helsinki", "Kraków", "Leeds", "Lille", "Lisbon", "Ljubljana", "Lyon", "Malmö",
    "Munich", "Naples", "Porto", "Riga", "Rotterdam", "Seville", "Tallinn", "Turin", "Vienna", "Zürich",
];

pub(crate) const LANGUAGES: [&str; 8] = ["en", "de", "fr", "es", "it", "nl", "pl", "pt"];

pub(crate) const CARRIERS: [&str; 5] = ["Northline Express", "ParcelGo", "BlueBird Post", "Kurier24", "GreenVan"];

/// What the shop sells, with the price of one in cents.
pub(crate) const ITEMS: [(&str, u32); 48] = [
    ("walnut desk lamp", 5_990),
    ("linen curtains", 4_450),
    ("cast-iron skillet", 3_995),
    ("bamboo cutting board", 1_890),
    ("noise-cancelling headphones", 17_900),
    ("ceramic teapot", 2_750),
    ("wool throw blanket", 6_900),
    ("hiking backpack", 8_950),
    ("stainless steel bottle", 1_990),
    ("mechanical keyboard", 10_900),
    ("espresso grinder", 13_900),
    ("yoga mat", 2_990),
    ("bedside clock", 2_490),
    ("rain jacket", 7_990),
    ("running shoes", 11_900),
    ("beeswax candles", 1_450),
    ("pour-over coffee set", 3_490),
    ("photo frame set", 2_290),
    ("merino socks", 1_690),
    ("leather wallet", 4_900),
    ("bicycle light", 3_290),
    ("plant pot trio", 3_150),
    ("cotton bath towels", 3_890),
    ("wireless charger", 2_990),
    ("oak bookshelf", 18_900),
    ("picnic basket", 5_490),
    ("board game", 3_990),
    ("watercolour set", 2_390),
    ("folding umbrella", 2_190),
    ("canvas tote bag", 1_590),
    ("bluetooth speaker", 6_990),
    ("travel pillow", 2_490),
    ("chef's knife", 7_490),
    ("kettlebell", 3_690),
    ("storage baskets", 2_890),
    ("silk scarf", 4_590),
    ("garden gloves", 1_290),
    ("toaster", 4_990),
    ("fountain pen", 5_290),
    ("down pillow", 5_590),
    ("standing desk", 39_900),
    ("office chair", 24_900),
    ("air purifier", 15_900),
    ("e-reader", 12_900),
    ("camping stove", 4_790),
    ("wall mirror", 6_490),
    ("denim jacket", 8_490),
    ("jigsaw puzzle", 1_990),
];
