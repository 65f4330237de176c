"""What this host can tell of whether a worker serves here: libraries, devices, model, each with its cure"""
