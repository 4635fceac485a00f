"""Channel mixers, one file each: what each token's channels become inside a block."""
