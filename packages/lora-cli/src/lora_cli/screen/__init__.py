"""The screen: shows the app's state and passes on the user's input."""
