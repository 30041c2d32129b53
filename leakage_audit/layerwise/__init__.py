"""The paper's walk back: Lemma 3.1, a layer's system `u x = v`, its rank and pseudo-inverse, the recursion."""
