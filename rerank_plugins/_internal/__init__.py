"""What every layer may use; nothing here imports anything but `errors`."""
