"""Every value of a plan, chosen from the profiles and the predicted memory, with its reason."""
