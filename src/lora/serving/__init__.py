"""`moonshine-lora serve`: tuned models behind OpenAI's transcription API and Home Assistant's Wyoming protocol."""
