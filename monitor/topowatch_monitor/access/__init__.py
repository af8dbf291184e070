"""Who may do what: tokens and their scopes, TLS, what a daemon may be reached from, and lines for an auditor."""
