"""Training: a stack of trials of equal shapes is one program; one trial is a stack of one."""
