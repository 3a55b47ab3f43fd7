"""What a plan is made from: the machine or a card, the dataset, the model."""
