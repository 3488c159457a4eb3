"""Speech of a list of terms, spoken by other programs: sentences, voices, manifests."""
