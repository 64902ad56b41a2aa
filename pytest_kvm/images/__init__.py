"""What guests boot: descriptions, built-in recipes, and what is made for each launch."""
