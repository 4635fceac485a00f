"""What a user may write, and how it is read and checked: experiments, arms, trial specs."""
