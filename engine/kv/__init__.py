"""Who holds which block of KV memory, what each block contains, and for how long it stays."""
