"""Evaluation: metrics, protocols, attackers, and the tables, plots and page that show them."""
