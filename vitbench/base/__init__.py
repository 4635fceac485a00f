"""What every room needs: errors, random streams, signals, durable writes, planted faults."""
