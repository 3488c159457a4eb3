"""Utterances: manifests read and checked, sets kept apart."""
