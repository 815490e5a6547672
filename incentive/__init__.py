"""DeepSeek-R1's method, open and real. See README.md; the code reads in the order of its flow, docs/ has a page per arrow."""
