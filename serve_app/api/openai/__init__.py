"""Surface in the shape of OpenAI's videos API, ``/v1/videos``, which self-hosted servers speak too."""
