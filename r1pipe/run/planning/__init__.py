"""What a figure will take, before a GPU is rented: memory, tokens, time, money and disk."""
