"""Programs that show the parts at work and check what they show."""
