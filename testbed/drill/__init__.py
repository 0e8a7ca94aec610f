"""The fault drill: a service under load, faults that strike it, and a checker that reads HTTP answers
alone.
"""
