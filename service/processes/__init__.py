"""What the serving processes of one host share: an address, a private folder, figures, and words with one another."""
