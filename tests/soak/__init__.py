"""Long runs of the real daemon against random failure, and what judges them."""
