"""What is predicted: tasks over a cohort, their classes and their splits."""
