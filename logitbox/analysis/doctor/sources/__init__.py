"""Where series come from: dumps of classifiers, dumps of token runs, and logs alone."""
