"""Where weights come from: always ends in a checked local folder."""
