"""Speed, measured: each benchmark runs both sides in one process, alternating, and prints ratios with their spread."""
