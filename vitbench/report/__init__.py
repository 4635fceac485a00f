"""Tables, plots, pages and the live view: everything that shows records and computes none of them."""
