"""The schema's history, for both databases. It only goes forward, beside the release before."""
