"""Which model to use on given images in given hours: questions, their order, and what the answers say. No torch."""
