"""The routes of OpenAI's API that its stock clients need. They translate to programs and back; nothing runs here."""
