"""What is sent to clients: messages, signed as Standard Webhooks 1.0 has it, and videos to their storage."""
