"""Decision trees on histograms, over the rows of all ranks.

The files are the algorithm's nouns, in the order in which they build on each other: `quantiles`, `binning`,
`quantisation`, `histogram`, `splitter`, `partition`, `tree`, `grower`; on them stand `boosting` and `forest`.
"""
