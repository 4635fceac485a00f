"""Token mixers, one file each: how tokens exchange information inside a block."""
