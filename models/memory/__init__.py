"""Memory: estimates for models and requests, and checks against the device's free memory."""
