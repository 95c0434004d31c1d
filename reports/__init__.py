"""Numbers to pictures, tables and sentences. Never imports torch."""
