"""How much each layer's weight rounding hurts."""
