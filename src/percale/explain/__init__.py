"""What the evaluator knows, as answers for people: why a flow is allowed or not, and who reaches whom."""
