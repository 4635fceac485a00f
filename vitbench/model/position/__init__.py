"""Position encodings, one file each: what each adds, and where the class token stands in it.

| encoding | adds | class token |
|---|---|---|
| none | nothing | as any token: its own learned vector |
| learned_1d | one learned vector per raster index | a vector of its own (row 0), unless `no_embed_class` |
| learned_2d | learned column (X) and row (Y) halves, concatenated | a vector of its own, unless `no_embed_class` |
| sincos_2d | fixed sines and cosines of row and column | nothing: it has no place on the grid |
| relative_1d | logits of the query with a learned vector per raster offset | one step before the first patch |
| relative_2d | the same, per row offset and per column offset | at row 0, column 0 |
| rope_2d | queries and keys turned by angles of row and column | not turned: at row 0, column 0 |
| alibi_2d | logits that fall with the distance on the grid, by a fixed slope per head | no penalty |

With `no_embed_class` the class token has no offset to any patch in relative_1d and relative_2d, and no extra logit.
Absolute encodings are added to the tokens at the stem, or before every block (own tables, or one shared); the others
act inside every attention layer.

Source: Dosovitskiy et al. 2021, App. D.4, Table 8 (none, learned_1d, learned_2d, relative_1d).
Differs: of relative_1d the paper says neither what the class token does nor whether the tables are shared: here each
layer has its own, shared by its heads. The class token's place matters in a shallow model that reads it: without one
the last layer's table has no effect, and on digits at depth 2 relative_1d fell from 91% to 80% (3 seeds, lr 4e-3).
relative_2d, sincos_2d, rope_2d and alibi_2d are not in the paper.
"""
