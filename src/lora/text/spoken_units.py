"""Spoken forms of units, currencies and abbreviations, in American spelling. Pure."""

from collections.abc import Mapping

_NAMES = {
    **{"mm": "millimeter", "cm": "centimeter", "m": "meter", "km": "kilometer", "yd": "yard", "mi": "mile"},
    **{"mg": "milligram", "g": "gram", "kg": "kilogram", "lb": "pound", "lbs": "pound", "oz": "ounce", "t": "ton"},
    **{"ml": "milliliter", "cl": "centiliter", "l": "liter", "gal": "gallon"},
    **{"ms": "millisecond", "s": "second", "sec": "second", "secs": "second", "min": "minute", "mins": "minute"},
    **{"h": "hour", "hr": "hour", "hrs": "hour", "w": "watt", "kw": "kilowatt", "v": "volt", "ma": "milliamp"},
    **{"b": "byte", "kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte", "tb": "terabyte", "px": "pixel"},
    **{"db": "decibel", "kwh": "kilowatt hour", "mcg": "microgram", "°": "degree", "¢": "cent", "pt": "point"},
}

_SPECIAL: dict[str, tuple[str, ...]] = {
    "in": ("inches", "inch"),
    "ft": ("feet", "foot"),
    "hz": ("hertz",),
    "khz": ("kilohertz",),
    "mhz": ("megahertz",),
    "ghz": ("gigahertz",),
    "mph": ("miles per hour", "mile per hour"),
    "mi/h": ("miles per hour", "mile per hour"),
    "kmh": ("kilometers per hour", "kilometer per hour"),
    "kph": ("kilometers per hour", "kilometer per hour"),
    "km/h": ("kilometers per hour", "kilometer per hour"),
    "m/s": ("meters per second", "meter per second"),
    "ft/s": ("feet per second", "foot per second"),
    "rpm": ("revolutions per minute",),
    "°c": ("degrees celsius", "degree celsius", "degrees centigrade"),
    "°f": ("degrees fahrenheit", "degree fahrenheit"),
    "%": ("percent", "per cent"),
}

UNITS: Mapping[str, tuple[str, ...]] = {**{unit: (f"{name}s", name) for unit, name in _NAMES.items()}, **_SPECIAL}
"""Spoken forms of a unit after a number; it may also be read as it is written."""

CURRENCIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "$": (("dollars", "dollar"), ("cents", "cent")),
    "£": (("pounds", "pound"), ("pence", "penny", "p")),
    "€": (("euros", "euro"), ("cents", "cent")),
    "¥": (("yen",), ("sen",)),
    "₹": (("rupees", "rupee"), ("paise", "paisa")),
}
"""The unit of a currency and its hundredth."""

MAGNITUDES: Mapping[str, str] = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion"}
"""Letters directly after a number."""

ABBREVIATIONS: Mapping[str, tuple[str, ...]] = {
    **{"st": ("street", "saint"), "dr": ("doctor", "drive"), "ave": ("avenue",), "rd": ("road",), "blvd": ("boulevard",)},
    **{"mr": ("mister",), "mrs": ("missus",), "prof": ("professor",), "capt": ("captain",), "gov": ("governor",)},
    **{"gen": ("general",), "sen": ("senator",), "rep": ("representative",), "pres": ("president",), "rev": ("reverend",)},
    **{"hon": ("honorable",), "asst": ("assistant",), "assoc": ("associate",), "lt": ("lieutenant",), "col": ("colonel",)},
    **{"jr": ("junior",), "sr": ("senior",), "esq": ("esquire",), "ald": ("alderman",), "mt": ("mount",), "ft": ("fort",)},
    **{"vs": ("versus",), "dept": ("department",), "apt": ("apartment",), "approx": ("approximately",), "no": ("number",)},
}

MONTHS = frozenset(
    ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december")
)
