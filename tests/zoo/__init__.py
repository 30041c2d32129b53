"""A zoo of small LightningModules in the manner of public code, each with what an audit must make of it.

A case (`case.Case`) is a module, its data, the settings of trainer and audit, and what must happen: audited with a
verified gradient, or refused in a sentence that names the cause and the setting that cures it. `catalogue.CASES` lists
them all, `fitting.fit` trains one and takes its fingerprint.
"""
