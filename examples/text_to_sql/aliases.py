"""What people call places and currencies besides their names in the database: static tables for the linker.

Owns no logic. Keys are in the linker's folded form (lower case, no accents, words parted by one space).
"""

from __future__ import annotations

from examples.text_to_sql.words import word_list

COUNTRY_ALIASES: dict[str, str] = {
    "usa": "US", "u s a": "US", "u s": "US", "united states of america": "US", "the united states": "US",
    "america": "US", "the states": "US", "uk": "GB", "u k": "GB", "britain": "GB", "great britain": "GB",
    "england": "GB", "the uk": "GB", "the united kingdom": "GB", "netherlands": "NL", "holland": "NL",
    "uae": "AE", "emirates": "AE", "the emirates": "AE", "czech republic": "CZ", "burma": "MM", "swaziland": "SZ",
    "cape verde": "CV", "macedonia": "MK", "east timor": "TL", "timor leste": "TL", "vatican city": "VA",
    "the vatican": "VA", "prc": "CN", "peoples republic of china": "CN", "mainland china": "CN",
    "russian federation": "RU", "palestine": "PS", "turkiye": "TR", "cote d ivoire": "CI", "cote divoire": "CI",
    "bosnia": "BA", "bosnia herzegovina": "BA", "trinidad": "TT", "trinidad tobago": "TT", "the bahamas": "BS",
    "the gambia": "GM", "macau": "MO", "sao tome": "ST", "antigua": "AG", "korea": "KR", "republic of korea": "KR",
    "dprk": "KP", "drc": "CD", "dr congo": "CD", "congo": "CD", "congo kinshasa": "CD", "congo brazzaville": "CG",
    "democratic republic of congo": "CD", "congo republic": "CG", "republic of ireland": "IE", "the philippines": "PH",
    "the maldives": "MV", "the seychelles": "SC", "the solomon islands": "SB", "the marshall islands": "MH",
    "the comoros": "KM", "the dominican republic": "DO", "the central african republic": "CF", "ksa": "SA",
    "car": "CF", "png": "PG", "papua": "PG", "brasil": "BR", "deutschland": "DE", "espana": "ES", "nippon": "JP",
    "the ivory coast": "CI", "virgin islands": "VI", "us virgin islands": "VI", "u s virgin islands": "VI",
    "saint vincent": "VC", "st vincent": "VC", "saint kitts": "KN", "st kitts": "KN", "micronesia": "FM",
    "kyrgyz republic": "KG", "slovak republic": "SK", "the sudan": "SD", "the ukraine": "UA", "the congo": "CD",
    "the lebanon": "LB", "the faroe islands": "FO", "the cayman islands": "KY", "sri lanka": "LK", "ceylon": "LK",
    "the isle of man": "IM", "viet nam": "VN", "lao": "LA", "federated states of micronesia": "FM",
}  # fmt: skip

DEMONYMS: dict[str, str] = {
    "american": "US", "british": "GB", "english": "GB", "french": "FR", "german": "DE", "italian": "IT",
    "spanish": "ES", "portuguese": "PT", "dutch": "NL", "belgian": "BE", "swiss": "CH", "austrian": "AT",
    "swedish": "SE", "norwegian": "NO", "danish": "DK", "finnish": "FI", "icelandic": "IS", "irish": "IE",
    "polish": "PL", "czech": "CZ", "slovak": "SK", "hungarian": "HU", "romanian": "RO", "bulgarian": "BG",
    "greek": "GR", "turkish": "TR", "russian": "RU", "ukrainian": "UA", "serbian": "RS", "croatian": "HR",
    "slovenian": "SI", "bosnian": "BA", "albanian": "AL", "macedonian": "MK", "lithuanian": "LT", "latvian": "LV",
    "estonian": "EE", "belarusian": "BY", "moldovan": "MD", "maltese": "MT", "cypriot": "CY", "georgian": "GE",
    "armenian": "AM", "azerbaijani": "AZ", "kazakh": "KZ", "uzbek": "UZ", "turkmen": "TM", "kyrgyz": "KG",
    "tajik": "TJ", "afghan": "AF", "pakistani": "PK", "indian": "IN", "nepalese": "NP", "nepali": "NP",
    "bangladeshi": "BD", "sri lankan": "LK", "chinese": "CN", "japanese": "JP", "south korean": "KR",
    "north korean": "KP", "korean": "KR", "taiwanese": "TW", "mongolian": "MN", "thai": "TH", "vietnamese": "VN",
    "cambodian": "KH", "laotian": "LA", "burmese": "MM", "malaysian": "MY", "singaporean": "SG", "indonesian": "ID",
    "filipino": "PH", "philippine": "PH", "australian": "AU", "iranian": "IR", "persian": "IR", "iraqi": "IQ",
    "syrian": "SY", "lebanese": "LB", "jordanian": "JO", "israeli": "IL", "palestinian": "PS", "saudi": "SA",
    "saudi arabian": "SA", "emirati": "AE", "qatari": "QA", "kuwaiti": "KW", "omani": "OM", "yemeni": "YE",
    "bahraini": "BH", "egyptian": "EG", "libyan": "LY", "tunisian": "TN", "algerian": "DZ", "moroccan": "MA",
    "sudanese": "SD", "ethiopian": "ET", "somali": "SO", "kenyan": "KE", "ugandan": "UG", "tanzanian": "TZ",
    "rwandan": "RW", "congolese": "CD", "angolan": "AO", "zambian": "ZM", "zimbabwean": "ZW", "mozambican": "MZ",
    "south african": "ZA", "namibian": "NA", "ghanaian": "GH", "nigerian": "NG", "ivorian": "CI", "senegalese": "SN",
    "malian": "ML", "cameroonian": "CM", "liberian": "LR", "malagasy": "MG", "mauritian": "MU", "canadian": "CA",
    "mexican": "MX", "guatemalan": "GT", "honduran": "HN", "salvadoran": "SV", "nicaraguan": "NI",
    "costa rican": "CR", "panamanian": "PA", "cuban": "CU", "jamaican": "JM", "haitian": "HT", "puerto rican": "PR",
    "colombian": "CO", "venezuelan": "VE", "ecuadorian": "EC", "peruvian": "PE", "bolivian": "BO",
    "brazilian": "BR", "argentine": "AR", "argentinian": "AR", "chilean": "CL", "uruguayan": "UY",
    "paraguayan": "PY", "new zealand": "NZ", "kiwi": "NZ", "luxembourgish": "LU", "us": "US",
}  # fmt: skip

CONTINENT_ALIASES: dict[str, str] = {
    "african": "AF", "asian": "AS", "european": "EU", "south american": "SA", "north american": "NA",
    "oceanian": "OC", "oceanic": "OC", "antarctic": "AN", "s america": "SA", "n america": "NA",
    "australasia": "OC",
}  # fmt: skip

CURRENCY_CODE_ALIASES: dict[str, str] = {
    "us dollar": "USD", "american dollar": "USD", "united states dollar": "USD", "u s dollar": "USD",
    "british pound": "GBP", "pound sterling": "GBP", "sterling": "GBP", "swiss franc": "CHF",
    "australian dollar": "AUD", "canadian dollar": "CAD", "new zealand dollar": "NZD", "hong kong dollar": "HKD",
    "singapore dollar": "SGD", "indian rupee": "INR", "mexican peso": "MXN", "east caribbean dollar": "XCD",
    "cfa franc": "XOF", "west african cfa franc": "XOF", "central african cfa franc": "XAF", "danish krone": "DKK",
    "norwegian krone": "NOK", "egyptian pound": "EGP", "pakistani rupee": "PKR", "cfp franc": "XPF",
    "argentine peso": "ARS", "chilean peso": "CLP", "colombian peso": "COP", "philippine peso": "PHP",
    "taiwan dollar": "TWD", "jamaican dollar": "JMD", "kenyan shilling": "KES",
}  # fmt: skip

CURRENCY_ALIASES: dict[str, str] = {
    "yuan": "Yuan Renminbi", "renminbi": "Yuan Renminbi", "rmb": "Yuan Renminbi", "japanese yen": "Yen",
    "russian ruble": "Ruble", "rouble": "Ruble", "south african rand": "Rand", "brazilian real": "Real",
    "polish zloty": "Zloty", "turkish lira": "Lira", "thai baht": "Baht", "shekels": "Shekel", "riel": "Riels",
    "rupees": "Rupee", "pesos": "Peso", "euros": "Euro", "dollars": "Dollar", "pounds": "Pound", "francs": "Franc",
    "dinars": "Dinar", "kronor": "Krona", "kroner": "Krone", "kronas": "Krona", "czech koruna": "Koruna",
    "hungarian forint": "Forint", "swedish krona": "Krona", "bolivar": "Bolivar Soberano", "chinese yuan":
    "Yuan Renminbi", "nigerian naira": "Naira", "vietnamese dong": "Dong", "indonesian rupiah": "Rupiah",
}  # fmt: skip

CITY_ALIASES: dict[str, str] = {
    "nyc": "New York City", "new york": "New York City", "washington dc": "Washington", "washington d c": "Washington",
    "bombay": "Mumbai", "calcutta": "Kolkata", "madras": "Chennai", "bangalore": "Bengaluru", "saigon":
    "Ho Chi Minh City", "kiev": "Kyiv", "peking": "Beijing", "st petersburg": "Saint Petersburg", "rio":
    "Rio de Janeiro", "constantinople": "Istanbul", "rangoon": "Yangon", "los angeles": "Los Angeles", "la":
    "Los Angeles", "sf": "San Francisco", "philly": "Philadelphia", "vegas": "Las Vegas", "frankfurt":
    "Frankfurt am Main", "the hague": "The Hague", "krakow": "Kraków", "cracow": "Kraków", "nuremberg":
    "Nürnberg", "odessa": "Odesa", "kharkov": "Kharkiv", "lvov": "Lviv", "cali": "Cali", "astana": "Astana",
    "nur sultan": "Astana", "dc": "Washington", "brasilia": "Brasília", "quebec": "Québec", "montreal": "Montréal",
}  # fmt: skip

TIMEZONE_ALIASES: dict[str, str] = {
    "eastern time": "America/New_York", "eastern time zone": "America/New_York", "central time": "America/Chicago",
    "central time zone": "America/Chicago", "mountain time": "America/Denver", "mountain time zone":
    "America/Denver", "pacific time": "America/Los_Angeles", "pacific time zone": "America/Los_Angeles",
}  # fmt: skip

COMMON_WORDS: frozenset[str] = frozenset(
    word_list(
        """
    a along alot average bar base bath bay bear bell bend best big bold brick buffalo buy car central clay code codes
    count country crystal currency date deal delta east end euro federal find first forest gap give goes golden green
    han has have he her hill his ho hook hope how i ii in independence is island islands it kind land large largest
    last lead least less liberty list live long lower luna main male man many march mean mine mission mobile more most
    much name names nada new nice no normal north numbers of ok on one only or orange orders over pace pearl people
    person places please police pop population property reading republic roman roses rouge rule said sale salt same
    san sandy say se see she show small some south sparks split spring springs sterling sum summit sun superior sur
    surprise tank than that the their time timezone tire to top total town two under union university uptown us use
    used van wedding well west what when where which who with word world xi yes young zone ten male santa saint st
    as at by an do any be was were can could will would should may might must not all each every both between above
    below state states city cities capital capitals continent continents area areas number than then them they
    dollar dollars pound peso franc real won sol lev leu som rand dong kip lek birr taka tala pula loti ho sun moon
    southern northern eastern western center central centre upper alert hub hot cold tell me my our we you your
    group order by sort sorted rank ranked list lists half quarter percent share sale bank beach park lake river
    sea mountain port rich poor dense high low max min mode bin pm am ad bc non pro per via versus compared
    bigger smaller higher lower greater fewer biggest smallest fastest speak spoken language located lies sits
    start starts starting begin begins beginning end ends ending letter letters contain contains containing
    domain internet tld phone dial dialing dialling prefix calling code iso people inhabitants residents live lives
    living nation nations place places town towns village villages settlements hemisphere equator latitude longitude
    using uses use spend money cash legal tender spent pay paid trust tender rest together combined
    """
    )
)
"""English words that are (or could pass for) names of cities: linked only where context says that a place is meant."""
