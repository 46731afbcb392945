"""The batch side, in processes of its own: whatever fits weights lives here and nowhere else."""
