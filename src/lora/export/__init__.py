"""A tuned model in the forms that on-device runtimes load. Everything is made from the checkpoint; nothing is copied or patched."""
