"""The types of what is written: a line of `audit.jsonl`, and `report.json`. Their JSON schemas are made from them."""
