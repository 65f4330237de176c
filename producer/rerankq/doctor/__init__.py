"""What is wrong with a service and what to type: each check by itself, each failure with its cure"""
