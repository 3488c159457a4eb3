"""Where speech comes from: one module per corpus, each of which ends in a manifest. Only these modules fetch data."""
