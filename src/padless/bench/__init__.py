"""Measurements that users can repeat: kills, resumes, and speed beside what people use today."""
