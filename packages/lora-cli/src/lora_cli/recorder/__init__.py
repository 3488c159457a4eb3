"""`moonshine record`: a user reads sentences, and gets speech to train and to test on."""
