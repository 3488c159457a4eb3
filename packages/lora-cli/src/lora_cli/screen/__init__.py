"""The screen: shows what it is told, passes on what the user does."""
