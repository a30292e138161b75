"""An OpenAI-compatible chat endpoint: asked within limits, budget and consent, and never twice for one thing."""
